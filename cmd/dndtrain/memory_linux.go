//go:build cgo

package main

/*
#include <malloc.h>

// XLA's CPU plugin takes each large buffer of a step from the C library, which takes it from
// the system and gives it back at once: clearing its pages anew is a tenth of a training
// step's processor time. So the library keeps what is freed: no mapping for large ones,
// nothing trimmed, and one arena, since others hold no large ones. Arenas come with threads,
// so this runs before there are any. Other C libraries than glibc have no such settings.
__attribute__((constructor)) static void keep_memory(void) {
#ifdef __GLIBC__
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_MAX, 0);
	mallopt(M_TRIM_THRESHOLD, -1);
#endif
}
*/
import "C"

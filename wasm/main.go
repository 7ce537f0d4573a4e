//go:build wasip1

// Command wasm is the guest: a WASI preview 1 reactor that exports package guest's four
// calls, whose documentation is the ABI. It owns the memory that crosses the border and
// turns panics into messages; it decides nothing else.
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags='-s -w' -o dnd.wasm ./wasm
package main

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/drag-and-drop-lora/dnd/graph/guest"
)

func main() {}

// maxMemory bounds what the host holds at a time, in bytes. Go ends a module that runs
// out of memory; so the host is refused before.
const maxMemory = 1 << 30

// held keeps what the host knows the address of from the garbage collector.
var (
	held      = map[uint32][]byte{}
	heldBytes int
)

//go:wasmexport abi_version
func abiVersion() int32 { return guest.Version }

//go:wasmexport alloc
func alloc(n int32) (ptr int32) {
	if n <= 0 || int(n) > maxMemory-heldBytes {
		return 0
	}
	return int32(hold(make([]byte, n)))
}

//go:wasmexport free
func free(ptr int32) {
	heldBytes -= len(held[uint32(ptr)])
	delete(held, uint32(ptr))
}

//go:wasmexport compile
func compile(ptr, n int32) int64 { return call(guest.Compile, ptr, n) }

//go:wasmexport feed
func feed(ptr, n int32) int64 { return call(guest.Feed, ptr, n) }

//go:wasmexport finish
func finish(ptr, n int32) int64 { return call(guest.Finish, ptr, n) }

//go:wasmexport answer
func answer(ptr, n int32) int64 { return call(guest.Answer, ptr, n) }

func hold(b []byte) uint32 {
	ptr := uint32(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	held[ptr] = b
	heldBytes += len(b)
	return ptr
}

// call gives f the message at ptr and holds what it answers.
func call(f func([]byte) []byte, ptr, n int32) (result int64) {
	give := func(b []byte) int64 { return int64(hold(b))<<32 | int64(len(b)) }
	defer func() {
		if p := recover(); p != nil {
			result = give(guest.Failed(fmt.Errorf("internal error: %v", p)))
		}
	}()
	message, ok := held[uint32(ptr)]
	if !ok || n < 0 || int(n) > len(message) {
		return give(guest.Failed(fmt.Errorf("message of %d bytes at %d: expected memory that alloc gave", uint32(n), uint32(ptr))))
	}
	// Go leaves marking to what else runs when it believes that marking took half of all time,
	// and by a clock that moves only when it is looked at, it did. Nothing else runs here, so
	// nothing would be freed again.
	defer runtime.GC()
	return give(f(message[:n]))
}

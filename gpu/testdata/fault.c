// A Vulkan driver that passes everything on to another (FAULT_DRIVER) but fails calls
// that FAULT names: "alloc:2:1" answers "out of device memory" to 1 vkAllocateMemory after
// the first 2, "lost" says that the device is lost from its first pipeline on, for good.
// A device made after that is sound.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUT_OF_DEVICE_MEMORY = -2, DEVICE_LOST = -4 };
typedef void (*Function)(void);
typedef Function (*GetProc)(void *, const char *);

static void *driver;
static GetProc instance_proc, device_proc;
static int allocations, lost, done;

static void *symbol(const char *name) {
	if (!driver && !(driver = dlopen(getenv("FAULT_DRIVER"), RTLD_NOW | RTLD_LOCAL))) {
		fprintf(stderr, "%s\n", dlerror());
		exit(3);
	}
	return dlsym(driver, name);
}

#define FAULT(name, parameters, arguments, condition, code) \
	static int (*real_##name) parameters; \
	static int fault_##name parameters { return (condition) ? (code) : real_##name arguments; }

static int alloc_fails(void) {
	int after = 0, count = 0;
	if (sscanf(getenv("FAULT"), "alloc:%d:%d", &after, &count) != 2) return 0;
	int n = allocations++;
	return n >= after && n < after + count;
}

static int pipeline_fails(void) {
	if (!strcmp(getenv("FAULT"), "lost") && !done) lost = done = 1;
	return lost;
}

FAULT(vkAllocateMemory, (void *d, const void *i, const void *a, uint64_t *m), (d, i, a, m), alloc_fails(), OUT_OF_DEVICE_MEMORY)
FAULT(vkCreateComputePipelines, (void *d, uint64_t c, uint32_t n, const void *i, const void *a, uint64_t *p), (d, c, n, i, a, p), pipeline_fails(), DEVICE_LOST)
FAULT(vkQueueSubmit, (void *q, uint32_t n, const void *s, uint64_t f), (q, n, s, f), lost, DEVICE_LOST)
FAULT(vkGetSemaphoreCounterValue, (void *d, uint64_t s, uint64_t *v), (d, s, v), lost, DEVICE_LOST)
FAULT(vkWaitSemaphores, (void *d, const void *i, uint64_t t), (d, i, t), lost, DEVICE_LOST)
FAULT(vkDeviceWaitIdle, (void *d), (d), lost, DEVICE_LOST)

static int (*real_vkCreateDevice)(void *, const void *, const void *, void **);
static int fault_vkCreateDevice(void *p, const void *i, const void *a, void **d) {
	lost = 0;
	return real_vkCreateDevice(p, i, a, d);
}

static Function wrap(const char *name, Function f) {
#define WRAP(known) if (f && !strcmp(name, #known)) { real_##known = (void *)f; return (Function)fault_##known; }
	WRAP(vkAllocateMemory)
	WRAP(vkCreateComputePipelines)
	WRAP(vkQueueSubmit)
	WRAP(vkGetSemaphoreCounterValue)
	WRAP(vkWaitSemaphores)
	WRAP(vkDeviceWaitIdle)
	WRAP(vkCreateDevice)
	return f;
}

static Function device_wrap(void *device, const char *name) { return wrap(name, device_proc(device, name)); }

Function vk_icdGetInstanceProcAddr(void *instance, const char *name) {
	if (!instance_proc) instance_proc = (GetProc)symbol("vk_icdGetInstanceProcAddr");
	Function f = instance_proc(instance, name);
	if (f && !strcmp(name, "vkGetDeviceProcAddr")) {
		device_proc = (GetProc)f;
		return (Function)device_wrap;
	}
	return wrap(name, f);
}

int vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
	int (*f)(uint32_t *) = (int (*)(uint32_t *))symbol("vk_icdNegotiateLoaderICDInterfaceVersion");
	return f ? f(version) : 0;
}

Function vk_icdGetPhysicalDeviceProcAddr(void *instance, const char *name) {
	GetProc f = (GetProc)symbol("vk_icdGetPhysicalDeviceProcAddr");
	return f ? f(instance, name) : 0;
}

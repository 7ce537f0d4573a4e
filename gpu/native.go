package gpu

/*
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The binding wraps each creation in a validation scope only, aborts the process on any
// error that no scope takes, and hands C pointers to Go variables that may be gone when
// the callback comes. These few calls into the same library keep their state in C
// memory instead.
typedef void (*dnd_error_cb)(int type, char const *message, void *userdata);
typedef void (*dnd_status_cb)(int status, void *userdata);
extern void *wgpuCreateInstance(void const *descriptor);
extern void wgpuDevicePushErrorScope(void *device, int filter);
extern void wgpuDevicePopErrorScope(void *device, dnd_error_cb callback, void *userdata);
extern void wgpuBufferMapAsync(void *buffer, uint32_t mode, size_t offset, size_t size, dnd_status_cb callback, void *userdata);
extern void wgpuQueueOnSubmittedWorkDone(void *queue, dnd_status_cb callback, void *userdata);
extern void *wgpuCommandEncoderBeginComputePass(void *encoder, void const *descriptor);
extern void wgpuDeviceReference(void *device);

typedef struct { int type; char text[2048]; } dnd_error;
typedef struct { volatile int done; volatile int status; } dnd_flag;

static void dnd_store_error(int type, char const *message, void *userdata) {
	dnd_error *e = (dnd_error *)userdata;
	if (type == 0 || e->type != 0) return;
	e->type = type;
	if (message) strncpy(e->text, message, sizeof(e->text) - 1);
}
static void dnd_store_status(int status, void *userdata) {
	dnd_flag *f = (dnd_flag *)userdata;
	f->status = status;
	f->done = 1;
}
// The binding leaves fields of this struct uninitialised, and the library aborts on them.
typedef struct {
	struct { void const *next; int type; } chain;
	uint32_t backends, flags;
	int dx12_compiler, gles_version;
	char const *dxil_path, *dxc_path;
} dnd_instance_extras;

static void *dnd_instance(uint32_t backends) {
	dnd_instance_extras extras;
	memset(&extras, 0, sizeof extras);
	extras.chain.type = 0x00030006; // WGPUSType_InstanceExtras
	extras.backends = backends;
	void const *descriptor = &extras.chain;
	return wgpuCreateInstance(&descriptor);
}
// Filters: 0 validation, 1 out of memory. This library knows no scope for internal errors.
static void dnd_push(void *device) {
	for (int filter = 0; filter < 2; filter++) wgpuDevicePushErrorScope(device, filter);
}
static void dnd_pop(void *device, dnd_error *e) {
	for (int i = 0; i < 2; i++) wgpuDevicePopErrorScope(device, dnd_store_error, e);
}
static dnd_flag *dnd_map(void *buffer, size_t size) {
	dnd_flag *f = (dnd_flag *)calloc(1, sizeof(dnd_flag));
	wgpuBufferMapAsync(buffer, 1, 0, size, dnd_store_status, f);
	return f;
}
static dnd_flag *dnd_work_done(void *queue) {
	dnd_flag *f = (dnd_flag *)calloc(1, sizeof(dnd_flag));
	wgpuQueueOnSubmittedWorkDone(queue, dnd_store_status, f);
	return f;
}
// The binding knows no timestamps of passes.
static void *dnd_timed_pass(void *encoder, void *device, void *set, uint32_t first) {
	struct { void *set; uint32_t begin, end; } writes = { set, first, first + 1 };
	struct { void const *next; char const *label; void const *writes; } descriptor = { 0, 0, &writes };
	void *pass = wgpuCommandEncoderBeginComputePass(encoder, &descriptor);
	if (pass) wgpuDeviceReference(device); // the binding's Release gives it back
	return pass;
}
*/
import "C"

import (
	"errors"
	"os"
	"strings"
	"unsafe"

	"github.com/cogentcore/webgpu/wgpu"
)

// The binding's types hold their C handle in a private field: first in Device and QuerySet,
// second, behind the device's, in Buffer, Queue and the encoders.
func deviceHandle(d *wgpu.Device) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(d)) }

func secondHandle[T wgpu.Buffer | wgpu.Queue | wgpu.CommandEncoder](v *T) unsafe.Pointer {
	return (*[2]unsafe.Pointer)(unsafe.Pointer(v))[1]
}

// guard runs f inside error scopes for validation and memory errors, and
// turns what they caught into a Go error about what.
func guard(d *wgpu.Device, what string, f func() error) error {
	C.dnd_push(deviceHandle(d))
	err := f()
	e := (*C.dnd_error)(C.calloc(1, C.sizeof_dnd_error))
	defer C.free(unsafe.Pointer(e))
	C.dnd_pop(deviceHandle(d), e)
	if e._type != 0 {
		return classify(what, int(e._type), C.GoString(&e.text[0]))
	}
	if err != nil {
		return classify(what, errorValidation, err.Error())
	}
	return nil
}

const (
	errorValidation  = 1
	errorOutOfMemory = 2
	errorDeviceLost  = 5
)

func classify(what string, kind int, message string) error {
	message = strings.Join(strings.Fields(message), " ")
	lower := strings.ToLower(message)
	switch {
	case kind == errorDeviceLost || strings.Contains(lower, "device is lost") || strings.Contains(lower, "device lost"):
		return &DeviceLostError{What: what, Message: message}
	case kind == errorOutOfMemory || strings.Contains(lower, "out of memory") || strings.Contains(lower, "not enough memory"):
		return &OutOfMemoryError{What: what, Message: message}
	}
	return &DeviceError{What: what, Message: message}
}

// flag is a completion that C sets from inside a poll.
type flag struct{ c *C.dnd_flag }

func (f flag) done() bool { return f.c.done != 0 }
func (f flag) ok() bool   { return f.c.status == 0 }

// free may be called only once the flag is done: until then C may write to it.
func (f flag) free() { C.free(unsafe.Pointer(f.c)) }

// newInstance leaves OpenGL out: its compute shaders are not held to WebGPU's rules, and
// asking for it makes EGL complain on machines without a display.
func newInstance() *wgpu.Instance {
	wgpu.SetLogLevel(wgpu.LogLevelOff)
	// Mesa's device-select layer looks for a Wayland server; without this variable
	// libwayland complains of it on stderr, every time.
	if os.Getenv("XDG_RUNTIME_DIR") == "" {
		os.Setenv("NODEVICE_SELECT", "1")
	}
	handle := C.dnd_instance(C.uint32_t(backends))
	return (*wgpu.Instance)(unsafe.Pointer(&struct{ ref unsafe.Pointer }{handle}))
}

const backends = wgpu.InstanceBackendVulkan | wgpu.InstanceBackendMetal | wgpu.InstanceBackendDX12

func workDone(q *wgpu.Queue) flag { return flag{C.dnd_work_done(secondHandle(q))} }

func mapForReading(b *wgpu.Buffer, size int64) flag {
	return flag{C.dnd_map(secondHandle(b), C.size_t(size))}
}

// timedPass begins a compute pass that writes its begin to query first of the set, and its
// end to the next.
func timedPass(d *wgpu.Device, encoder *wgpu.CommandEncoder, set *wgpu.QuerySet, first uint32) (*wgpu.ComputePassEncoder, error) {
	device := deviceHandle(d)
	pass := C.dnd_timed_pass(secondHandle(encoder), device, *(*unsafe.Pointer)(unsafe.Pointer(set)), C.uint32_t(first))
	if pass == nil {
		return nil, errors.New("no compute pass could be begun")
	}
	return (*wgpu.ComputePassEncoder)(unsafe.Pointer(&[2]unsafe.Pointer{device, pass})), nil
}

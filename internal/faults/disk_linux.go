package faults

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside is set in the process that Disks starts.
const inside = "DND_FAULTS_INSIDE"

// Disks runs a test that calls NewDisk. Whoever may not mount is given a namespace of their
// own for it; where there is none either, the test is skipped.
func Disks(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	dir := t.TempDir()
	err := mount(dir, 1<<16)
	if err == nil {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		test(t)
		return
	}
	if os.Getenv(inside) != "" {
		t.Skipf("a small disk cannot be mounted, not even in a user namespace: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("a small disk cannot be mounted, and user namespaces are not allowed: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("in a user namespace: %v: run the test as root to see why", err)
	}
}

// Disk is a file system of little space.
type Disk struct{ Dir string }

// NewDisk makes one of so many bytes, in whole pages. It goes with the test.
func NewDisk(t testing.TB, bytes int64) Disk {
	t.Helper()
	dir := t.TempDir()
	if err := mount(dir, bytes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return Disk{dir}
}

// Resize gives it another size.
func (d Disk) Resize(t testing.TB, bytes int64) {
	t.Helper()
	if err := unix.Mount("tmpfs", d.Dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprint("size=", bytes)); err != nil {
		t.Fatal(err)
	}
}

func mount(dir string, bytes int64) error {
	return unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", bytes))
}

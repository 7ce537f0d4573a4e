package gpu

import (
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// DeviceError is what the device said about one step: a kernel that does not compile, a
// binding that does not fit.
type DeviceError struct{ What, Message string }

func (e *DeviceError) Error() string { return fmt.Sprintf("gpu: %s: %s", e.What, e.Message) }

// OutOfMemoryError says that GPU memory ran out.
type OutOfMemoryError struct{ What, Message string }

func (e *OutOfMemoryError) Error() string {
	return fmt.Sprintf("gpu: %s: out of GPU memory (%s): close other programs, use --weights f16, or --backend pjrt or cpu", e.What, e.Message)
}

// Is makes it a graph.ErrMemory.
func (e *OutOfMemoryError) Is(target error) bool { return target == graph.ErrMemory }

// DeviceLostError says that the device was reset or taken away. The next Run opens it
// anew.
type DeviceLostError struct{ What, Message string }

func (e *DeviceLostError) Error() string {
	return fmt.Sprintf("gpu: %s: the device was lost (%s): run the command again", e.What, e.Message)
}

// BudgetError says that a Program holds more memory at a time than it may.
type BudgetError struct{ Need, Budget int64 }

func (e *BudgetError) Error() string {
	return fmt.Sprintf("gpu: the run needs %d bytes of GPU memory at a time at least, the budget is %d: raise --memory", e.Need, e.Budget)
}

// Is makes it a graph.ErrMemory.
func (e *BudgetError) Is(target error) bool { return target == graph.ErrMemory }

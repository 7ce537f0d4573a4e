//go:build !(linux || darwin)

package atomicfile

import "errors"

// exchange cannot swap two names in one step here.
func exchange(a, b string) error { return errors.ErrUnsupported }

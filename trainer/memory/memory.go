// Package memory tells before a model is loaded whether the machine's memory suffices:
// better a refusal at the start than a process that the system kills. It knows no model;
// package lm asks it.
package memory

import (
	"errors"
	"fmt"
)

// ErrFull is what Check's error wraps where there is too little.
var ErrFull = errors.New("too little memory")

// Check is an error where a number of bytes is more than the machine has available. Systems
// that do not tell are taken to have enough.
func Check(bytes int64) error { return check(bytes, available) }

func check(bytes int64, available func() (int64, bool)) error {
	if have, ok := available(); ok && have < bytes {
		return fmt.Errorf("%w: %.2f GB are needed, %.2f GB are available", ErrFull, float64(bytes)/1e9, float64(have)/1e9)
	}
	return nil
}

package collect

import (
	"testing"
	"time"
)

// Finished is how a collection that goes on looks at what is there.
var Finished = finished

// SetStateAfter changes for a test how much is lost when a run is killed.
func SetStateAfter(t *testing.T, d time.Duration) {
	before := stateAfter
	stateAfter = d
	t.Cleanup(func() { stateAfter = before })
}

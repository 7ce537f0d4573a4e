//go:build !amd64

package fftconv

// Fast says that this machine has the vector instructions without which the direct
// convolution of another library is faster.
const Fast = false

func kernel(k int, a, b []float32, bStride int, c []float32, cStride int, add bool) {
	kernelGo(k, a, b, bStride, c, cStride, add)
}

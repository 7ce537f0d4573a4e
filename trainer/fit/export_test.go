package fit

// TrimMetrics is what a resumed run does with the metrics of a killed one.
var TrimMetrics = trimMetrics

// Regress are the coordinates of data sets by Config.LinearStart, and how much their own values
// count in what is predicted for them.
func Regress(c *Config, encoded [][][]float32) (coordinates [][]float64, leverage []float32, err error) {
	r, coordinates, err := regress(c, encoded)
	if err != nil {
		return nil, nil, err
	}
	return coordinates, r.leverage, nil
}

package fit

// TrimMetrics is what a resumed run does with the metrics of a killed one.
var TrimMetrics = trimMetrics

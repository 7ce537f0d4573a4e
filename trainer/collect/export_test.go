package collect

// Finished is how a collection that goes on looks at what is there.
var Finished = finished

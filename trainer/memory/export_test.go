package memory

// CheckOf is Check on a machine that has something else available.
var CheckOf = check

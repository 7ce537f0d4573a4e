package backend

// Places are where plugins are looked for.
func Places(inTest bool) []string { return places(inTest) }

package lm

// FolderConfig reads a Hugging Face folder's configuration.
var FolderConfig = folderConfig

// Shapes are those of the tensors that a configuration wants.
func Shapes(c *Config, tied bool) [][]int {
	var shapes [][]int
	for _, w := range weightList(c, tied) {
		shapes = append(shapes, w.shape)
	}
	return shapes
}

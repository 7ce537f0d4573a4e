package experiment

import "github.com/drag-and-drop-lora/dnd/trainer/grid"

// GridOf is the grid as a split sees it.
func GridOf(p *Plan, split int) *grid.Grid { return p.of(&p.Splits[split]) }

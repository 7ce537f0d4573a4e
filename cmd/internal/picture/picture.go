// Package picture draws a number of each module of an adapter as a heat map, layers from
// left to right and modules from top to bottom: as a PNG with the layers' sums below it, or
// as text for a terminal. What the numbers are is the caller's to say.
package picture

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/palette"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
)

// Grid is a number for each module and layer, NaN where a layer has no such module.
type Grid struct {
	Layers  []int
	Modules []string    // without the layer: "self_attn.q_proj"
	Values  [][]float64 // by layer, then module
	Most    float64     // the largest, 0 if there is none above
}

// layered are module names that say their layer: model.layers.3.self_attn.q_proj.
var layered = regexp.MustCompile(`^(?:.*\.)?(?:layers|blk|h)\.(\d{1,6})\.(.+)$`)

// New makes a grid of modules' names and values, in the order in which modules and layers
// first occur.
func New(names []string, values []float64) (*Grid, error) {
	g := &Grid{}
	at := map[[2]int]float64{}
	for i, name := range names {
		m := layered.FindStringSubmatch(name)
		if m == nil {
			return nil, fmt.Errorf("module %q: expected the number of its layer in its name", name)
		}
		if v := values[i]; math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			return nil, fmt.Errorf("module %q: value %v, expected a finite number from 0 on", name, v)
		}
		layer, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, err
		}
		l, k := slices.Index(g.Layers, layer), slices.Index(g.Modules, m[2])
		if l < 0 {
			l = len(g.Layers)
			g.Layers = append(g.Layers, layer)
		}
		if k < 0 {
			k = len(g.Modules)
			g.Modules = append(g.Modules, m[2])
		}
		at[[2]int{l, k}] = values[i]
		g.Most = max(g.Most, values[i])
	}
	if len(g.Layers) == 0 {
		return nil, fmt.Errorf("no module to draw")
	}
	for l := range g.Layers {
		row := make([]float64, len(g.Modules))
		for k := range row {
			v, ok := at[[2]int{l, k}]
			if row[k] = v; !ok {
				row[k] = math.NaN()
			}
		}
		g.Values = append(g.Values, row)
	}
	return g, nil
}

// Text writes the heat map with letters: a line a module, a column a layer. Where there are
// colours, the letters have one, too.
func (g *Grid) Text(w io.Writer) {
	shades := []rune(" ░▒▓█")
	colours := map[rune]cli.Style{'░': cli.Blue, '▒': cli.Cyan, '▓': cli.Yellow, '█': cli.Red}
	for k, name := range g.Modules {
		fmt.Fprintf(w, "%-10s  ", name[strings.LastIndexByte(name, '.')+1:])
		for l := range g.Layers {
			v := g.Values[l][k]
			shade := '·' // no such module
			if !math.IsNaN(v) {
				shade = shades[0]
				if g.Most > 0 {
					shade = shades[int(math.Round(v/g.Most*float64(len(shades)-1)))]
				}
			}
			cli.Styled(w, colours[shade], "%c", shade)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%-10s  layers %d to %d, █ is %.4g\n", "", slices.Min(g.Layers), slices.Max(g.Layers), g.Most)
}

// heat is a Grid as gonum/plot wants it, its first module on top.
type heat struct{ *Grid }

func (h heat) Dims() (c, r int)   { return len(h.Layers), len(h.Modules) }
func (h heat) Z(c, r int) float64 { return h.Values[c][len(h.Modules)-1-r] }
func (h heat) X(c int) float64    { return float64(c) }
func (h heat) Y(r int) float64    { return float64(r) }

// PNG writes the heat map, and under it the root of the sum of squares of each layer.
// value says what the numbers are.
func (g *Grid) PNG(w io.Writer, title, value string) error {
	most := g.Most
	if most == 0 {
		most = 1
	}
	pal := newShades(64)

	top := plot.New()
	top.Title.Text = title
	h := plotter.NewHeatMap(heat{g}, pal)
	h.Min, h.Max = 0, most
	top.Add(h)
	names := slices.Clone(g.Modules)
	slices.Reverse(names)
	top.NominalY(names...)
	top.X.Label.Text = "layer"
	top.X.Tick.Marker = g.ticks()
	top.X.Min, top.X.Max = -0.5, float64(len(g.Layers))-0.5
	top.Y.Min, top.Y.Max = -0.5, float64(len(g.Modules))-0.5

	bottom := plot.New()
	bottom.X.Label.Text, bottom.Y.Label.Text = "layer", value
	bottom.X.Tick.Marker = g.ticks()
	sums := make(plotter.Values, len(g.Layers))
	for l, row := range g.Values {
		for _, v := range row {
			if !math.IsNaN(v) {
				sums[l] += v * v
			}
		}
		sums[l] = math.Sqrt(sums[l])
	}
	// Bars have a width on paper: about the room that a layer has.
	bars, err := plotter.NewBarChart(sums, vg.Centimeter*vg.Length(max(0.05, min(1, 12/float64(len(g.Layers))))))
	if err != nil {
		return err
	}
	bars.Color, bars.LineStyle.Width = pal[len(pal)-1], 0
	bottom.Add(plotter.NewGrid(), bars)
	bottom.Y.Min = 0
	bottom.Y.Max *= 1.05
	bottom.X.Min, bottom.X.Max = top.X.Min, top.X.Max

	const width, lower, key = 24 * vg.Centimeter, 7 * vg.Centimeter, 2 * vg.Centimeter
	upper := 3*vg.Centimeter + vg.Length(len(g.Modules))*0.7*vg.Centimeter
	img := vgimg.New(width, upper+lower)
	all := draw.New(img)
	plots := draw.Crop(all, vg.Millimeter, -key, vg.Millimeter, -vg.Millimeter)
	parts := [][]*plot.Plot{{top}, {bottom}}
	// Align wants tiles of one height; each plot then gets its own.
	canvases := plot.Align(parts, draw.Tiles{Rows: 2, Cols: 1}, plots)
	low, high := canvases[1][0], canvases[0][0]
	low.Min.Y, low.Max.Y = plots.Min.Y, plots.Min.Y+lower
	high.Min.Y, high.Max.Y = plots.Min.Y+lower, plots.Max.Y
	top.Draw(high)
	bottom.Draw(low)
	legend(pal, most).Draw(draw.Crop(all, width-key, 0, lower+vg.Centimeter, -vg.Centimeter))
	_, err = vgimg.PngCanvas{Canvas: img}.WriteTo(w)
	return err
}

// shades go from almost white to dark blue, so that they also read in grey.
type shades []color.Color

func newShades(n int) shades {
	from, to := [3]float64{0xf4, 0xf6, 0xfa}, [3]float64{0x0b, 0x2a, 0x5b}
	s := make(shades, n)
	for i := range s {
		t := float64(i) / float64(n-1)
		mix := func(k int) uint8 { return uint8(math.Round(from[k] + t*(to[k]-from[k]))) }
		s[i] = color.RGBA{mix(0), mix(1), mix(2), 0xff}
	}
	return s
}

// Colors implements palette.Palette.
func (s shades) Colors() []color.Color { return s }

// legend shows what the colours mean.
func legend(pal palette.Palette, most float64) *plot.Legend {
	l := plot.NewLegend()
	thumbs := plotter.PaletteThumbnailers(pal)
	for i := len(thumbs) - 1; i >= 0; i -= 3 {
		text := ""
		switch {
		case i == len(thumbs)-1:
			text = fmt.Sprintf("%.3g", most)
		case i < 3:
			text = "0"
		}
		l.Add(text, thumbs[i])
	}
	l.Top, l.Left, l.TextStyle.Font.Size = true, true, vg.Points(9)
	l.ThumbnailWidth, l.Padding = vg.Points(10), -vg.Points(4)
	return &l
}

// ticks name at most thirty layers.
func (g *Grid) ticks() plot.Ticker {
	var ticks []plot.Tick
	step := 1 + (len(g.Layers)-1)/30
	for l := 0; l < len(g.Layers); l += step {
		ticks = append(ticks, plot.Tick{Value: float64(l), Label: strconv.Itoa(g.Layers[l])})
	}
	return plot.ConstantTicks(ticks)
}

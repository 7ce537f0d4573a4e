package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// page is a man page.
type page struct{ name, text string }

// pages are the man pages of a program: one of its own, and one a command.
func (p *program) pages() []page {
	version := Build().Version
	var b strings.Builder
	head := func(name, short string) {
		b.Reset()
		fmt.Fprintf(&b, ".TH %s 1 \"\" \"%s %s\" \"User Commands\"\n", strings.ToUpper(roff(name)), roff(p.name), roff(version))
		fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(short))
	}
	head(p.name, strings.TrimSuffix(strings.TrimPrefix(p.about, p.name+" "), "."))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n.I COMMAND\n.RI [ flags ]\n", roff(p.name))
	fmt.Fprint(&b, ".SH COMMANDS\n")
	var also []string
	for _, c := range p.commands {
		fmt.Fprintf(&b, ".TP\n.BR %s\\-%s (1)\n%s\n", roff(p.name), roff(c.Name), roff(c.Short))
		also = append(also, fmt.Sprintf(".BR %s\\-%s (1)", roff(p.name), roff(c.Name)))
	}
	fmt.Fprintf(&b, ".SH EXIT STATUS\n.TP\n.B %d\nThe command did its work.\n.TP\n.B %d\nIt failed, for the reason on standard error.\n"+
		".TP\n.B %d\nIt was called wrongly.\n", Done, Failed, Usage)
	fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", strings.Join(also, ",\n"))
	pages := []page{{p.name + ".1", b.String()}}
	for _, c := range p.commands {
		head(p.name+"-"+c.Name, c.Short)
		fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s %s\n.RI [ flags ]\n", roff(p.name), roff(c.Name))
		if c.Args != "" {
			fmt.Fprintf(&b, ".I %s\n", roff(c.Args))
		}
		fmt.Fprint(&b, ".SH OPTIONS\n")
		flags, _ := c.flags(&Env{})
		flags.VisitAll(func(f *pflag.Flag) {
			kind, usage := pflag.UnquoteUsage(f)
			fmt.Fprintf(&b, ".TP\n.B \\-\\-%s", roff(f.Name))
			if kind != "" {
				fmt.Fprintf(&b, " \\fI%s\\fR", roff(kind))
			}
			if d := f.DefValue; d != "" && d != "false" && d != "[]" && d != "0" && !strings.Contains(usage, "default:") {
				usage += " (default: " + d + ")"
			}
			fmt.Fprintf(&b, "\n%s\n", roff(usage))
		})
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (1)\n", roff(p.name))
		pages = append(pages, page{p.name + "-" + c.Name + ".1", b.String()})
	}
	return pages
}

// roff makes a text one line of text for troff: no request, no escape of its own.
func roff(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\"", `\(dq`, "'", `\(aq`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

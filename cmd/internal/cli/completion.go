package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// option is a flag as completion sees it.
type option struct {
	name, usage string
	values      []string // all that it takes, if they are known
	takes       string   // "" nothing, "file" or "value"
}

// options are the flags of a command, in their order.
func (c Command) options() []option {
	flags, _ := c.flags(&Env{})
	var list []option
	flags.VisitAll(func(f *pflag.Flag) {
		_, usage := pflag.UnquoteUsage(f)
		o := option{name: f.Name, usage: usage, values: f.Annotations[valuesKey], takes: "value"}
		switch {
		case f.Value.Type() == "bool":
			o.takes = ""
		case strings.HasPrefix(f.Value.Type(), "string") && o.values == nil:
			o.takes = "file"
		}
		list = append(list, o)
	})
	return list
}

func (p *program) names() []string {
	names := make([]string, len(p.commands))
	for i, c := range p.commands {
		names[i] = c.Name
	}
	return names
}

// arguments are the values of what stands behind a command's flags, if they are known.
func (c Command) arguments() []string {
	if c.Args == "SHELL" {
		return []string{"bash", "zsh", "fish"}
	}
	return nil
}

func (p *program) bash(w io.Writer) {
	f := strings.ReplaceAll(p.name, "-", "_")
	fmt.Fprintf(w, `# Completion of %[1]s for bash. Use it with: source <(%[1]s completion bash)
_%[2]s() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
	COMPREPLY=()
	if [ "$cur" = "=" ]; then
		cur=
	elif [ "$prev" = "=" ]; then
		prev=${COMP_WORDS[COMP_CWORD-2]}
	fi
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W '%[3]s' -- "$cur"))
		return
	fi
	case "$command $prev" in
`, p.name, f, strings.Join(append(p.names(), "help"), " "))
	for _, c := range p.commands {
		for _, o := range c.options() {
			if o.values != nil {
				fmt.Fprintf(w, "\t'%s --%s') COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n", c.Name, o.name, strings.Join(o.values, " "))
			}
		}
	}
	fmt.Fprint(w, "\tesac\n\tcase \"$command $cur\" in\n")
	for _, c := range p.commands {
		var flags []string
		for _, o := range c.options() {
			flags = append(flags, "--"+o.name)
		}
		fmt.Fprintf(w, "\t'%s '-*) COMPREPLY=($(compgen -W '%s' -- \"$cur\")) ;;\n", c.Name, strings.Join(flags, " "))
		if values := c.arguments(); values != nil {
			fmt.Fprintf(w, "\t'%s '*) COMPREPLY=($(compgen -W '%s' -- \"$cur\")) ;;\n", c.Name, strings.Join(values, " "))
		}
	}
	// Where nothing was found: file names.
	fmt.Fprintf(w, "\tesac\n}\ncomplete -o default -F _%s %s\n", f, p.name)
}

func (p *program) zsh(w io.Writer) {
	f := strings.ReplaceAll(p.name, "-", "_")
	fmt.Fprintf(w, `#compdef %[1]s
# Completion of %[1]s for zsh: put it as _%[1]s into a folder of $fpath, or use it with:
# source <(%[1]s completion zsh)
_%[2]s() {
	local -a commands
	commands=(
`, p.name, f)
	for _, c := range p.commands {
		fmt.Fprintf(w, "\t\t%s\n", quote(c.Name+":"+c.Short))
	}
	fmt.Fprint(w, "\t)\n\tif (( CURRENT == 2 )); then\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tlocal command=$words[2]\n"+
		"\tshift words\n\t(( CURRENT-- ))\n\tcase $command in\n")
	brackets := strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`)
	for _, c := range p.commands {
		fmt.Fprintf(w, "\t%s) _arguments", c.Name)
		for _, o := range c.options() {
			spec := "--" + o.name
			switch usage := "[" + brackets.Replace(o.usage) + "]"; {
			case o.takes == "":
				spec += usage
			case o.values != nil:
				spec += "=" + usage + ":value:(" + strings.Join(o.values, " ") + ")"
			case o.takes == "file":
				spec += "=" + usage + ":file:_files"
			default:
				spec += "=" + usage + ":value: "
			}
			fmt.Fprintf(w, " \\\n\t\t%s", quote(spec))
		}
		switch values := c.arguments(); {
		case values != nil:
			fmt.Fprintf(w, " \\\n\t\t%s", quote("*:value:("+strings.Join(values, " ")+")"))
		case c.Args != "":
			fmt.Fprintf(w, " \\\n\t\t%s", quote("*:file:_files"))
		}
		fmt.Fprint(w, " ;;\n")
	}
	fmt.Fprintf(w, "\tesac\n}\nif [ \"$funcstack[1]\" = _%[1]s ]; then\n\t_%[1]s \"$@\"\nelse\n\tcompdef _%[1]s %[2]s\nfi\n", f, p.name)
}

func (p *program) fish(w io.Writer) {
	fmt.Fprintf(w, "# Completion of %[1]s for fish. Use it with: %[1]s completion fish | source\n", p.name)
	fmt.Fprintf(w, "complete -c %s -n __fish_use_subcommand -f\n", p.name)
	for _, c := range p.commands {
		fmt.Fprintf(w, "complete -c %s -n __fish_use_subcommand -a %s -d %s\n", p.name, c.Name, quoteFish(c.Short))
		here := fmt.Sprintf("complete -c %s -n '__fish_seen_subcommand_from %s'", p.name, c.Name)
		for _, o := range c.options() {
			fmt.Fprintf(w, "%s -l %s", here, o.name)
			switch {
			case o.values != nil:
				fmt.Fprintf(w, " -x -a '%s'", strings.Join(o.values, " "))
			case o.takes == "file":
				fmt.Fprint(w, " -r -F")
			case o.takes == "value":
				fmt.Fprint(w, " -x")
			}
			fmt.Fprintf(w, " -d %s\n", quoteFish(o.usage))
		}
		switch values := c.arguments(); {
		case values != nil:
			fmt.Fprintf(w, "%s -f -a '%s'\n", here, strings.Join(values, " "))
		case c.Args == "":
			fmt.Fprintf(w, "%s -f\n", here)
		}
	}
}

// quote makes a word of bash and zsh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func quoteFish(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

package science

// An attribute's value, with the phrases that say it. The first phrases are those that
// training uses; the unseen ones are kept for tests of wording.
type value struct {
	name          string
	phrases       []string
	unseen        []string
	order         []int             // of an operation: which of the four words, in which order
	words         map[string]string // of a vocabulary: what each noun becomes
	before, after []string          // of a style: around the answer
	between       string            // of a style: after every word but the last, "" for nothing
}

var nouns = []string{"cat", "dog", "bird", "fish", "horse", "cow", "apple", "bread", "water", "house", "tree", "book", "sun", "moon", "fire", "stone"}

func dictionary(to ...string) map[string]string {
	d := map[string]string{}
	for i, n := range nouns {
		d[n] = to[i]
	}
	return d
}

// operations say which words the answer has.
var operations = []value{
	{name: "copy", order: []int{0, 1, 2, 3},
		phrases: []string{"copy the words", "repeat the words in the same order", "write the words as given", "keep the order of the words", "write down all words unchanged",
			"say the same words again", "list the words in their given order", "give the words back as they are", "write the list again", "leave the words in place"},
		unseen: []string{"echo the list unchanged", "reproduce the words without reordering", "restate the list exactly", "duplicate the sequence as it stands"}},
	{name: "reverse", order: []int{3, 2, 1, 0},
		phrases: []string{"reverse the words", "write the words backwards", "list the words from last to first", "flip the order of the words", "start with the last word and go back",
			"turn the list around", "write the list in backward order", "give the words in the opposite order", "read the words from the end", "say the words back to front"},
		unseen: []string{"invert the sequence of words", "put the words in reverse order", "mirror the list", "go through the list backwards"}},
	{name: "rotate", order: []int{1, 2, 3, 0},
		phrases: []string{"rotate the words to the left", "move the first word to the end", "shift the words left by one", "cycle the words one step", "put the first word behind the others",
			"let the first word come last", "rotate the list by one place", "append the first word at the end", "shift every word one place to the left", "begin with the second word"},
		unseen: []string{"send the first word to the back", "cyclically shift the list left", "rotate the sequence one position", "transfer the opening word to the end"}},
	{name: "swap", order: []int{3, 1, 2, 0},
		phrases: []string{"swap the first and last words", "exchange the outer words", "switch the two end words", "trade the places of the first and last word", "let the outer words change places",
			"swap the two outer words", "exchange the first word with the last", "turn the first and last word around", "switch the first word with the last word", "swap the words at the ends"},
		unseen: []string{"interchange the first and last words", "swap both end words of the list", "exchange the words at either end", "let the outer words trade positions"}},
	{name: "head", order: []int{0, 1},
		phrases: []string{"give only the first two words", "pick the first two words", "return just the two opening words", "keep only the two words at the start", "write the first half of the words",
			"stop after the second word", "take the first two", "leave out the last two words", "drop the second half of the words", "list only the beginning two words"},
		unseen: []string{"select the initial two words", "output the first pair of words", "remove the final two words", "truncate the list after two words"}},
	{name: "tail", order: []int{2, 3},
		phrases: []string{"give only the last two words", "pick the last two words", "return just the two final words", "keep only the two words at the end", "write the second half of the words",
			"begin at the third word", "take the last two", "leave out the first two words", "drop the first half of the words", "list only the closing two words"},
		unseen: []string{"select the concluding two words", "output the last pair of words", "remove the initial two words", "skip the opening two words"}},
}

// furtherOperations are answers that nothing asks for, which is why they have no phrases.
var furtherOperations = []value{
	{name: "swap-pairs", order: []int{1, 0, 3, 2}},
	{name: "swap-inner", order: []int{0, 2, 1, 3}},
	{name: "rotate-right", order: []int{3, 0, 1, 2}},
	{name: "last-three", order: []int{1, 2, 3}},
	{name: "halves", order: []int{2, 3, 0, 1}},
	{name: "ends", order: []int{0, 3}},
}

// vocabularies say how the answer writes a noun.
var vocabularies = []value{
	{name: "plain", words: dictionary(nouns...),
		phrases: []string{"in lower case", "in plain english", "without changing the words", "in small letters", "in ordinary english", "in normal english spelling", "in english", "with plain english words", "written normally", "in simple small letters"},
		unseen:  []string{"in lowercase", "in everyday english", "with no translation", "with unaltered spelling"}},
	{name: "upper", words: dictionary("CAT", "DOG", "BIRD", "FISH", "HORSE", "COW", "APPLE", "BREAD", "WATER", "HOUSE", "TREE", "BOOK", "SUN", "MOON", "FIRE", "STONE"),
		phrases: []string{"in upper case", "in capital letters", "with all letters capitalized", "shouting in caps", "in capitals", "in all caps", "written in large letters", "with every letter a capital", "in upper case letters only", "all capitalized"},
		unseen:  []string{"in uppercase", "using big capitals", "in full caps", "with capitalization of everything"}},
	{name: "french", words: dictionary("chat", "chien", "oiseau", "poisson", "cheval", "vache", "pomme", "pain", "eau", "maison", "arbre", "livre", "soleil", "lune", "feu", "pierre"),
		phrases: []string{"in french", "translated to french", "using french words", "in the french tongue", "as french people say", "as they say in paris", "in the french language", "with french translations", "put into french", "for a reader in france"},
		unseen:  []string{"as french vocabulary", "rendered into french", "like people in lyon talk", "translated for the french"}},
	{name: "german", words: dictionary("katze", "hund", "vogel", "fisch", "pferd", "kuh", "apfel", "brot", "wasser", "haus", "baum", "buch", "sonne", "mond", "feuer", "stein"),
		phrases: []string{"in german", "translated to german", "using german words", "in the german tongue", "as german people say", "as they say in berlin", "in the german language", "with german translations", "put into german", "for a reader in germany"},
		unseen:  []string{"as german vocabulary", "rendered into german", "like people in munich talk", "translated for the germans"}},
}

// styles say what stands around the answer's words.
var styles = []value{
	{name: "space",
		phrases: []string{"separated by spaces", "with only spaces between", "as simple text", "without any punctuation", "with only blanks between", "as plain words", "with no marks at all", "with just spaces", "as bare words", "without commas or brackets"},
		unseen:  []string{"free of punctuation", "divided by spaces only", "with no symbols", "as unadorned text"}},
	{name: "comma", between: ",",
		phrases: []string{"separated by commas", "with commas between them", "as a comma list", "joined by commas", "with a comma after each", "as a list with commas", "with commas in between", "put commas between", "divided by commas", "using commas"},
		unseen:  []string{"comma separated", "delimited by commas", "as comma separated words", "with a comma as divider"}},
	{name: "bracket", before: []string{"["}, after: []string{"]"},
		phrases: []string{"inside square brackets", "as a bracketed list", "wrapped in brackets", "between square brackets", "in brackets", "with brackets around them", "put brackets around", "surrounded by square brackets", "within two brackets", "with brackets on each side"},
		unseen:  []string{"enclosed in brackets", "in square brackets", "bracketed", "framed by square brackets"}},
	{name: "polite", before: []string{"sure", ":"},
		phrases: []string{"and answer politely", "starting with sure", "and begin with sure", "in a friendly reply", "with a polite opening", "and say sure first", "as a kind answer", "and be polite", "in a polite way", "beginning with sure"},
		unseen:  []string{"and be courteous", "with a courteous start", "as a gracious reply", "opening with a friendly sure"}},
}

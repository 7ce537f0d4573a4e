package science

// The methods that are compared, by the names that result.json has them under.
const (
	MethodBase      = "base"
	MethodFormat    = "base_format_in_prompt"
	MethodFewShot   = "base_few_shot"
	MethodMean      = "mean_training_lora"
	MethodBest      = "best_training_lora"
	MethodAverage   = "weight_average"
	MethodNearest   = "nearest_neighbour"
	MethodAdditive  = "additive"
	MethodRidge     = "ridge"
	MethodJoint     = "joint_lora"
	MethodForeign   = "generated_foreign_prompts"
	MethodShuffled  = "generated_shuffled_prompts"
	MethodGenerated = "generated"
	MethodOwn       = "own_task_lora"
)

// Methods are all of them, in the order of the tables.
var Methods = []string{MethodBase, MethodFormat, MethodFewShot, MethodMean, MethodBest, MethodAverage, MethodNearest, MethodAdditive, MethodRidge, MethodJoint,
	MethodForeign, MethodShuffled, MethodGenerated, MethodOwn}

// The conditions that methods are compared under, by the names that result.json has them
// under.
const (
	UnseenTask    = "unseen_combination"
	UnseenWording = "unseen_wording"
	StrictTask    = "strict"
)

// Conditions are all of them.
var Conditions = []string{UnseenTask, UnseenWording, StrictTask}

// Labels are the words for methods and conditions in tables.
var Labels = map[string]string{
	MethodBase:      "base",
	MethodFormat:    "base, format in its prompt",
	MethodFewShot:   "base, three examples in its prompt",
	MethodMean:      "mean training LoRA",
	MethodBest:      "best training LoRA (picked on the test)",
	MethodAverage:   "weight average",
	MethodNearest:   "nearest neighbour",
	MethodAdditive:  "additive (true attributes)",
	MethodRidge:     "ridge",
	MethodJoint:     "joint LoRA",
	MethodForeign:   "generated, foreign prompts",
	MethodShuffled:  "generated, shuffled prompts",
	MethodGenerated: "generated",
	MethodOwn:       "own-task LoRA",

	UnseenTask:    "unseen combination",
	UnseenWording: "unseen combination, unseen wording",
	StrictTask:    "unseen combination, unseen by the base too",
}

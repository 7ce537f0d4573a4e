// Prompts to try the page with, of tasks that the shipped generator was not fitted on.
// build.mjs takes them from models/data/test.

declare const EXAMPLES: { name: string; prompts: string[] }[];

export const examples = EXAMPLES;

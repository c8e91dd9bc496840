"""All configurations; a new family adds its own here."""

import llava_cases

CASES = (*llava_cases.CASES,)

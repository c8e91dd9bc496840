"""All configurations; a new family adds its own here."""

import internvl_cases
import llava_cases

CASES = (*llava_cases.CASES, *internvl_cases.CASES)

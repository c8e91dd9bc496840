"""All configurations; a new family adds its own here."""

import internvl_cases
import llava_cases
import llava_next_cases
import llava_next_video_cases
import llava_onevision_cases
import qwen2_5_vl_cases
import qwen3_vl_cases

CASES = (
    *llava_cases.CASES,
    *llava_next_cases.CASES,
    *llava_next_video_cases.CASES,
    *llava_onevision_cases.CASES,
    *qwen2_5_vl_cases.CASES,
    *qwen3_vl_cases.CASES,
    *internvl_cases.CASES,
)

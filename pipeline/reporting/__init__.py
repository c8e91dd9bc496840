"""report.html: one self-contained page that tells what was measured, in numbers and pictures."""

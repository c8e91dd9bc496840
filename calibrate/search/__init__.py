"""From what each drop costs alone to a whole schedule: `calibrating.calibrate`. The other files are its steps."""

"""The JSON files of run, study and comparison folders: one class writes and reads each."""

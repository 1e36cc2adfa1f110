"""The architecture search: relaxations, timetable, budget and controller."""

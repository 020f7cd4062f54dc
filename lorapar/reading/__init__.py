"""What answers are made of, each read by itself: units, number words, times and dates, letters of a choice, denials."""

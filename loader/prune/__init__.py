"""What to cut, said and worked out: plans, short forms, ranking, masks, exports."""

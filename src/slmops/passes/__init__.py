"""Passes: functions Model -> Model. One a file, named as the function; lazy: nothing is read until somebody pulls."""

"""What judges an answer: exercises as plain data, a guarded call, detectors of usual mistakes, values compared."""

from dgm_exercises.engine.verdict import GIVEN_IN_FULL, MARKS, Exercise, Verdict, judge

__all__ = ["GIVEN_IN_FULL", "MARKS", "Exercise", "Verdict", "judge"]

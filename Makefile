# Short forms of `python run.py JOB`. Further words go into ARGS: make bench ARGS=import-seconds
.PHONY: course lab test lint store bench elsewhere
course lab test lint store bench elsewhere:
	@python3 run.py $@ $(ARGS)

# Short forms of `python run.py JOB`. Further words go into ARGS: make bench ARGS=import-seconds
.PHONY: course lab test store bench
course lab test store bench:
	@python3 run.py $@ $(ARGS)

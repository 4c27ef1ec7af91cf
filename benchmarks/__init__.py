"""What Tidemill costs beside what people would write without it. `python -m benchmarks.bench --quick`."""

"""The lab: experiments, records and reports of Linear Backprop, built on the library."""

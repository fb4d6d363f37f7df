"""What the studies on images share: runs, the paper's sweep, choices and seeds."""

"""quantize_rows: bf16 rows to E4M3 with one scale per row and 128 columns."""

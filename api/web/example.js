/* example.js - thirty genes of a real B cell (AGTAAGGATTTACC-1), those with the highest values.
 *
 * From 10x Genomics, "Fresh 68k PBMCs" (CC BY 4.0), as packaged by scanpy (BSD-3): ln(1 + counts
 * per 10,000). The bundled model was not trained on this cell. */
export const EXAMPLE = `CD74 4.89
HLA-DRA 4.42
HLA-DRB1 4.16
LTB 4.12
HLA-DPB1 4.12
FTL 3.97
RPS24 3.60
HLA-DPA1 3.60
CD79B 3.60
PTPRCAP 3.52
HLA-DRB5 3.35
CD37 3.35
HLA-DQA1 3.25
CRIP1 3.25
CD79A 3.25
PPIA 3.13
CD52 3.13
TKT 3.01
TAGLN2 3.01
SMIM14 2.86
MS4A1 2.86
HLA-DQA2 2.86
PTPRC 2.69
PSMA7 2.69
SRP14 2.48
SNHG7 2.48
PPP1R14A 2.48
JUNB 2.48
ISCU 2.48
CALM1 2.48`;

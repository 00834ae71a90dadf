/* product_body.h - fp32 products over vec.h, for machines where oneDNN does not keep a row's bits
 * the same at every place of a tile. Included by kernels_avx2.c and kernels_generic.c.
 *
 * Register tile: PRODUCT_ROWS rows x 2 vectors. Every element is one chain of multiply-adds along
 * k, cut into blocks of PRODUCT_DEPTH so that a block of weights stays in the first-level cache:
 * its bits depend on its own row and column only. */
#if defined(__AVX2__)
enum { PRODUCT_ROWS = 6 }; /* 12 sums of 16 registers */
#else
enum { PRODUCT_ROWS = 4 };
#endif
enum { PRODUCT_COLS = 2 * VW, PRODUCT_DEPTH = 256 };

/* y (rows, 2 VW) = x (rows, steps) panel (steps, 2 VW), plus y where `more`; rows is a constant. */
SCD_INLINE void product_tile(size_t rows, const float *x, size_t ldx, size_t steps,
                             const float *panel, int more, float *y, size_t ldy)
{
    vf acc[PRODUCT_ROWS][2];
    SCD_UNROLL
    for (size_t r = 0; r < rows; r++) {
        acc[r][0] = more ? vload(y + r * ldy) : vzero();
        acc[r][1] = more ? vload(y + r * ldy + VW) : vzero();
    }
    for (size_t i = 0; i < steps; i++, panel += PRODUCT_COLS) {
        vf b0 = vload(panel), b1 = vload(panel + VW);
        SCD_UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf a = vset(x[r * ldx + i]);
            acc[r][0] = vfma(a, b0, acc[r][0]);
            acc[r][1] = vfma(a, b1, acc[r][1]);
        }
    }
    SCD_UNROLL
    for (size_t r = 0; r < rows; r++) {
        vstore(y + r * ldy, acc[r][0]);
        vstore(y + r * ldy + VW, acc[r][1]);
    }
}

/* All m rows of one panel and block of k. */
static void product_rows(const float *x, size_t m, size_t ldx, size_t steps, const float *panel,
                         int more, float *y, size_t ldy)
{
    size_t r = 0;
    for (; r + PRODUCT_ROWS <= m; r += PRODUCT_ROWS)
        product_tile(PRODUCT_ROWS, x + r * ldx, ldx, steps, panel, more, y + r * ldy, ldy);
    for (; r + 2 <= m; r += 2)
        product_tile(2, x + r * ldx, ldx, steps, panel, more, y + r * ldy, ldy);
    if (r < m)
        product_tile(1, x + r * ldx, ldx, steps, panel, more, y + r * ldy, ldy);
}

static void product(const float *x, size_t m, size_t k, const float *w, size_t n, float *y,
                    size_t ldy)
{
    for (size_t i = 0; i < k; i += PRODUCT_DEPTH)
        for (size_t col = 0; col < n; col += PRODUCT_COLS)
            product_rows(x + i, m, k, k - i < PRODUCT_DEPTH ? k - i : PRODUCT_DEPTH,
                         w + col * k + i * PRODUCT_COLS, i > 0, y + col, ldy);
}

/* product_body.h - fp32 products over vec.h, for machines where oneDNN does not keep a row's bits
 * the same at every place of a tile. Included by kernels_avx2.c and kernels_generic.c.
 *
 * Register tile: PRODUCT_ROWS rows x 2 vectors; every element is one chain of multiply-adds along
 * k, so its bits depend on its own row and column only. */
enum { PRODUCT_ROWS = 4, PRODUCT_COLS = 2 * VW };

/* y (rows, 2 VW) = x (rows, k) panel (k, 2 VW); rows is a constant at every call. */
SCD_INLINE void product_tile(size_t rows, const float *x, size_t k, const float *panel, float *y,
                             size_t ldy)
{
    vf acc[PRODUCT_ROWS][2];
    SCD_UNROLL
    for (size_t r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = vzero();
    for (size_t i = 0; i < k; i++, panel += PRODUCT_COLS) {
        vf b0 = vload(panel), b1 = vload(panel + VW);
        SCD_UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf a = vset(x[r * k + i]);
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

static void product(const float *x, size_t m, size_t k, const float *w, size_t n, float *y,
                    size_t ldy)
{
    for (size_t col = 0; col < n; col += PRODUCT_COLS, w += k * PRODUCT_COLS) {
        size_t r = 0;
        for (; r + PRODUCT_ROWS <= m; r += PRODUCT_ROWS)
            product_tile(PRODUCT_ROWS, x + r * k, k, w, y + r * ldy + col, ldy);
        for (; r < m; r++)
            product_tile(1, x + r * k, k, w, y + r * ldy + col, ldy);
    }
}

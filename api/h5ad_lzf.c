/* h5ad_lzf.c - the LZF filter of h5py (number 32000), decompression alone.
 *
 * anndata offers `compression="lzf"` beside gzip, and libhdf5 brings no LZF of its own. The format
 * is that of Marc Lehmann's LibLZF: a control byte below 32 is followed by so many + 1 literal
 * bytes; else its upper three bits are a length - 2 (7: one more byte adds to it) and its lower
 * five, with the next byte, a distance back - 1.
 *
 * Threads: inside the library's lock. Owns: the buffers that a filter is handed, as HDF5 has it. */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { LZF_ID = 32000, MAX_CHUNK_BYTES = 1 << 30 };

/* Bytes written, 0: damaged, or more than n_out. */
static size_t lzf_expand(const unsigned char *in, size_t n_in, unsigned char *out, size_t n_out)
{
    size_t at = 0, to = 0;
    while (at < n_in) {
        size_t control = in[at++];
        if (control < 32) {
            size_t n = control + 1;
            if (n > n_in - at || n > n_out - to)
                return 0;
            memcpy(out + to, in + at, n);
            at += n;
            to += n;
            continue;
        }
        size_t n = (control >> 5) + 2;
        if (n == 9) {
            if (at == n_in)
                return 0;
            n += in[at++];
        }
        if (at == n_in)
            return 0;
        size_t back = ((control & 31) << 8 | in[at++]) + 1;
        if (back > to || n > n_out - to)
            return 0;
        for (size_t i = 0; i < n; i++, to++) /* may overlap: a run */
            out[to] = out[to - back];
    }
    return to;
}

/* parameters[2] is the size of a chunk as the writer noted it. */
static size_t lzf_filter(unsigned flags, size_t n_parameters, const unsigned parameters[],
                         size_t n_bytes, size_t *buf_bytes, void **buf)
{
    if (!(flags & H5Z_FLAG_REVERSE) || n_parameters < 3)
        return 0;
    size_t n_out = parameters[2];
    if (n_out == 0 || n_out > MAX_CHUNK_BYTES || n_out / 300 > n_bytes)
        return 0;
    unsigned char *out = H5allocate_memory(n_out, false);
    if (!out)
        return 0;
    size_t n = lzf_expand(*buf, n_bytes, out, n_out);
    if (n == 0) {
        H5free_memory(out);
        return 0;
    }
    H5free_memory(*buf);
    *buf = out;
    *buf_bytes = n_out;
    return n;
}

void scd_h5_lzf_register(void)
{
    static const H5Z_class2_t lzf = {
        H5Z_CLASS_T_VERS, (H5Z_filter_t)LZF_ID, 0, 1, "lzf", NULL, NULL, lzf_filter};
    H5Zregister(&lzf);
}

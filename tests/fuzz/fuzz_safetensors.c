/* fuzz_safetensors.c - any bytes as a .safetensors file: refused, or every tensor that it gives can
 * be read to its last element.
 *
 * Threads: one. */
#include "engine/model/safetensors_impl.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Shapes that the seeds use; the names are theirs too. */
static void read_some(const scd_safetensors *file)
{
    static const char *const names[] = {"a", "b", "gene_embedding.weight", "x"};
    static const size_t shapes[][2] = {{1, 0}, {2, 0}, {4, 0}, {2, 3}, {0, 4}, {1, 1}, {3, 4}};
    float out[16];
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++)
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            scd_tensor t;
            scd_error err;
            if (!scd_safetensors_get(file, names[n], shapes[s][0], shapes[s][1], &t, &err))
                scd_tensor_to_f32(&t, 0, t.rows * t.cols, out);
            else if (!memchr(err.message, '\0', sizeof err.message))
                abort();
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    scd_safetensors *file = NULL;
    scd_error err;
    void *bytes = aligned_alloc(64, (size + 64) / 64 * 64);
    if (!bytes)
        return 0;
    /* To the end of the block, so that a read past the file is a read past the block. */
    unsigned char *at = (unsigned char *)bytes + ((size + 64) / 64 * 64 - size) / 8 * 8;
    memcpy(at, data, size);
    if (!scd_safetensors_parse(at, size, "fuzz", &file, &err)) {
        read_some(file);
        scd_safetensors_close(file);
    }
    free(bytes);
    return 0;
}

/* oip_members.h - one input, one output and the names of members in the JSON of an inference
 * request (oip_request.h); internal to the decoder.
 *
 * Threads: one at a time. Owns: nothing. */
#ifndef SCD_API_OIP_MEMBERS_H
#define SCD_API_OIP_MEMBERS_H

#include "api/oip_request.h"

typedef struct scd_oip_reader {
    scd_decoder decoder;
    const scd_oip_body *body;
    scd_oip_request *out;
    scd_request *cells;
    size_t n_inputs;
    scd_oip_tensor inputs[SCD_OIP_MAX_INPUTS];
    double timeout_us; /* Triton's own parameter; 0: none given */
    size_t n_task_bytes;
} scd_oip_reader;

/* The first name that nobody knows, as `where` and the key. False: no memory. */
bool scd_oip_note_unknown(scd_oip_reader *r, const char *where, scd_text key);

/* Which of n names the key is, n: none. place->member becomes it, *seen gets its bit; a second one
 * is a fault. */
size_t scd_oip_member(scd_text key, const char *const *names, size_t n, scd_place *place,
                      unsigned *seen, scd_fault *fault);

/* A null is next, as some clients write what is not given; it is skipped. *ok: reading can go on.
 */
bool scd_oip_is_absent(scd_decoder *d, bool *ok);

/* A whole number from 0. */
bool scd_oip_read_size(scd_decoder *d, const scd_place *place, size_t *out, scd_fault *fault);

/* Element `index` of "inputs", of "outputs": kept where nothing is wrong with it. False: the
 * decoder has stopped. */
bool scd_oip_read_input(scd_oip_reader *r, size_t index, scd_fault *fault);
bool scd_oip_read_output(scd_oip_reader *r, size_t index, scd_fault *fault);

#endif

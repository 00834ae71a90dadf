/* handle_embeddings.c - POST /v1/embeddings: the task's fields and items; the way is infer.c's. */
#include "api/embed_fields.h"
#include "server/infer_call.h"
#include "server/router.h"

static bool read_fields(scd_infer_call *call, const char **unknown)
{
    scd_embed_fields fields;
    if (scd_embed_fields_decode(&call->request, &fields, &call->problem))
        return false;
    call->fields.encoding = fields.encoding;
    *unknown = fields.unknown;
    return true;
}

static void write_result(const scd_infer_call *call, const scd_infer_cell *cell, scd_answer *answer)
{
    scd_answer_embedding(answer, call->fields.encoding, cell->result, call->width);
}

static void size_result(const scd_infer_call *call, size_t *about, size_t *most)
{
    enum { NUMBER = 12, NUMBER_BASE64 = 6, LONGEST_NUMBER = 20 };
    bool base64 = call->fields.encoding == SCD_ENCODING_BASE64;
    *about = call->width * (base64 ? NUMBER_BASE64 : NUMBER);
    *most = call->width * LONGEST_NUMBER;
}

static const scd_infer_task task = {.name = "embed",
                                    .has_npy = true,
                                    .read_fields = read_fields,
                                    .write_result = write_result,
                                    .size_result = size_result};

void scd_handle_embeddings(scd_daemon *d, scd_exchange *x)
{
    scd_infer(&task, d, x);
}

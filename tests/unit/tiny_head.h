/* tiny_head.h - head directories with what a test wants in them.
 *
 * Weights follow from the tensor's place in the list and the element's index. One thread. */
#ifndef SCD_TESTS_TINY_HEAD_H
#define SCD_TESTS_TINY_HEAD_H

#include "engine/model/file.h"
#include "engine/model/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEAD_MLP = 5, HEAD_LABELS = 3, HEAD_TENSORS_MAX = 8 };

/* What scd_digest_hex would print of no model. */
#define HEAD_NO_MODEL "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define HEAD_THREE_LABELS                                                                          \
    "[{\"label\":\"B\",\"ontology_id\":\"CL:0000236\"},{\"label\":\"NK\"},"                        \
    "{\"label\":\"T\",\"ontology_id\":null}]"

static void head_fill(void *arg, size_t entry, size_t first, size_t n, float *out)
{
    float bad = *(const float *)arg;
    for (size_t i = 0; i < n; i++)
        out[i] = sinf((float)(7 * entry + first + i + 1));
    if (bad != 0 && entry == 1)
        out[0] = bad;
}

/* head.json as text. */
static scd_code head_write_json(const char *dir, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/head.json", dir);
    return scd_file_write(path, text, strlen(text), NULL);
}

static scd_code __attribute__((unused))
head_write_good_json(const char *dir, const char *model_digest)
{
    char text[1000];
    snprintf(text, sizeof text,
             "{\"task\":\"annotation\",\"format\":1,\"labels\":" HEAD_THREE_LABELS
             ",\"temperature\":1.5,\"threshold\":0.45,\"model_digest\":\"%s\",\"recipe\":{}}\n",
             model_digest);
    return head_write_json(dir, text);
}

/* The four tensors of the MLP for a model of `hidden` dimensions, and n more. `bad` != 0 becomes
 * the first element of mlp.0.bias. */
static scd_code __attribute__((unused))
head_write_tensors(const char *dir, size_t hidden, const scd_tensor_entry *more, size_t n,
                   float bad)
{
    char path[128];
    scd_tensor_entry entries[HEAD_TENSORS_MAX] = {
        {"mlp.0.weight", SCD_F32, HEAD_MLP, hidden},
        {"mlp.0.bias", SCD_F32, HEAD_MLP, 0},
        {"mlp.2.weight", SCD_F32, HEAD_LABELS, HEAD_MLP},
        {"mlp.2.bias", SCD_F32, HEAD_LABELS, 0},
    };
    for (size_t i = 0; i < n; i++)
        entries[4 + i] = more[i];
    snprintf(path, sizeof path, "%s/head.safetensors", dir);
    return scd_safetensors_write(path, entries, 4 + n, head_fill, &bad, NULL);
}

static void head_remove(const char *dir)
{
    char path[128];
    snprintf(path, sizeof path, "%s/head.json", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/head.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

#endif

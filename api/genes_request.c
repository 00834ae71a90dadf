/* genes_request.c - see genes_request.h. */
#include "api/genes_request.h"

#include "api/request_parts.h"

enum { GENES, VALUES, INPUT, MODEL, N_MEMBERS };

static const char *const names[N_MEMBERS] = {"genes", "values", "input", "model"};

typedef struct parts {
    unsigned seen; /* 1 << member */
    size_t n_values;
} parts;

static bool read_member(scd_decoder *decoder, scd_text key, parts *p, scd_genes_request *out,
                        scd_fault *fault)
{
    unsigned member = 0;
    while (member < N_MEMBERS && !scd_text_is(key, names[member]))
        member++;
    scd_place place = {"", SCD_NO_INDEX, NULL, SCD_NO_INDEX};
    if (member == N_MEMBERS) {
        scd_fault_unknown_member(fault, &place, key, "genes, values, input, model");
        return scd_scan_skip(&decoder->scan, NULL);
    }
    place.member = names[member];
    if (p->seen & 1u << member)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "is given twice");
    p->seen |= 1u << member;
    size_t max = decoder->limits->max_genes_per_cell;
    switch (member) {
    case GENES:
        return scd_read_names(decoder, &place, max, &out->genes, &out->n, fault);
    case VALUES:
        return scd_read_numbers(decoder, &place, max, &out->values, &p->n_values, fault);
    case INPUT:
        return scd_read_input_kind(decoder, &place, &out->input, fault);
    default:
        return scd_read_text(decoder, &place, decoder->limits->max_name_bytes, &out->model, fault);
    }
}

static bool read_body(scd_decoder *decoder, parts *p, scd_genes_request *out)
{
    scd_scan *scan = &decoder->scan;
    scd_text key;
    if (!scd_read_start(decoder))
        return false;
    for (size_t i = 0; scd_scan_member(scan, i, decoder->arena, &key); i++) {
        scd_fault fault;
        fault.kind = SCD_PROBLEM_NONE;
        if (!read_member(decoder, key, p, out, &fault))
            return false;
        scd_problem_add_fault(decoder->problem, &fault);
    }
    return scd_scan_end(scan);
}

scd_problem_kind scd_genes_request_decode(const char *body, size_t n,
                                          const scd_request_limits *limits, scd_arena *arena,
                                          scd_genes_request *out, scd_problem *problem)
{
    *out = (scd_genes_request){0};
    scd_decoder decoder;
    parts p = {0};
    scd_decoder_init(&decoder, body, n, limits, arena, problem);
    if (decoder.scan.error || !read_body(&decoder, &p, out)) {
        scd_decoder_stopped(&decoder);
    } else if (problem->kind == SCD_PROBLEM_NONE) {
        if (!(p.seen & 1u << GENES))
            scd_problem_add(problem, "", "\"genes\" is missing: the names to resolve");
        else if (out->n == 0)
            scd_problem_add(problem, "/genes", "no names: give at least one");
        else if (out->values && p.n_values != out->n)
            scd_problem_add(problem, "/values",
                            "%zu values for %zu genes: give exactly one value for each gene",
                            p.n_values, out->n);
    }
    scd_decoder_release(&decoder);
    return problem->kind;
}

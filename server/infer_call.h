/* infer_call.h - one request whose cells are computed, on its way through the daemon.
 *
 *     handle_*.c        what is particular to a task: its fields, how a result is written
 *     infer.c           the flow: which thread does which step
 *     infer_prepare.c   body -> request -> cells -> keys -> what the cache has
 *     infer_answer.c    results -> JSON or .npy
 *
 * Two works of the same cells - an embedding and a head's probabilities - are two calls, of which
 * one is `beside` the other: prepared after it, submitted with it as one ticket, and answered by
 * it.
 *
 * A request may wait long for its cells, so what it was read from - the body, names, values - goes
 * as soon as the cells are serialized, and what stays counts (scd_exchange_keep).
 *
 * Threads: one at a time; it moves from an http thread (or prep-0 for much work) to the batcher and
 *          back.
 * Owns:    its arenas; all else that hangs on it lives there or in the exchange. */
#ifndef SCD_INFER_CALL_H
#define SCD_INFER_CALL_H

#include "api/answer.h"
#include "server/daemon.h"

enum { SCD_MAX_WARNINGS = 8 };

/* Of requests and answers with binary tensors: how long the JSON in front of them is. */
#define SCD_OIP_HEADER "Inference-Header-Content-Length"

typedef struct scd_infer_call scd_infer_call;
typedef struct scd_infer_cell scd_infer_cell;

/* A gene that came without a value: which token (-1: unknown), and the how-manieth input. */
typedef struct scd_shown {
    int32_t token;
    size_t input;
} scd_shown;

/* What is known of a cell besides its tokens, while it is planned. */
typedef struct scd_measured {
    const int32_t *tokens; /* (n) of the genes whose values were given, 0 or not; -1: unknown */
    size_t n;
    const scd_cell_values *values; /* that the cell was serialized from; NULL: a blank cell */
    const scd_shown *shown;        /* (n_shown) of a task that allows it; not among its tokens */
    size_t n_shown;
    scd_arena *scratch; /* until the cell is planned */
} scd_measured;

/* What distinguishes the tasks: one constant of this for each route. A hook that may be NULL says
 * what that means. */
typedef struct scd_infer_task {
    const char *name;    /* in keys: "embed" */
    bool has_npy;        /* the matrix of results may be asked for as a .npy file */
    bool cells_optional; /* a request may have no cells */
    bool blank_cells;    /* a cell may have no inputs: it is planned without tokens */
    bool open_values;    /* a gene may come without a value, as `shown` */
    bool heavy;          /* much is made of a cell when the answer is written */
    bool by_path;        /* a body means what its path says, and a header, besides */

    /* The body into call->request and, where it names one, call->request.model. False:
     * call->problem is set. NULL: it is a JSON body of /v1. */
    bool (*decode)(scd_infer_call *call);

    /* The task's own fields; call->model is chosen. Fills call->fields, call->head, call->work.head
     * where the head computes cells, call->large where it is much work for another reason than the
     * number of cells, and *unknown, the first member that nobody knows (borrowed from the
     * request). False: call->problem is set. */
    bool (*read_fields)(scd_infer_call *call, const char **unknown);

    /* Cell c is serialized: what is computed of it, and what the answer needs of it besides. Fills
     * cell->plan (left NULL: one pass), or cell->idle where nothing is to be computed, or says what
     * is wrong by scd_infer_blame; may lengthen the cell. False: memory is out. NULL: one pass. */
    bool (*plan_cell)(scd_infer_call *call, size_t c, const scd_measured *measured);
    /* All cells are planned. False: call->problem is set. May be NULL. */
    bool (*plan_end)(scd_infer_call *call);

    /* Of a task whose items are the cells: the members that say what came of one. */
    void (*write_result)(const scd_infer_call *call, const scd_infer_cell *cell,
                         scd_answer *answer);
    /* Of a task whose items are others: all of them, of which call->n_items - set by plan_end at
     * the latest - says how many there are at most. False: call->problem is set. NULL: the items
     * are the cells. */
    bool (*write_items)(scd_infer_call *call, scd_answer *answer);
    /* Members of the answer behind "data" (",\"x\":..."). May be NULL. */
    void (*write_end)(const scd_infer_call *call, scd_buf *out);
    /* The whole answer, where it is no list: its type and, of JSON in front of binary data, its
     * length. False: call->problem is set. NULL: a list. */
    bool (*write_answer)(scd_infer_call *call, scd_buf *out, scd_memo_info *info);
    /* How long an item's own members are: about, and at most. */
    void (*size_result)(const scd_infer_call *call, size_t *about, size_t *most);
} scd_infer_task;

typedef union scd_infer_fields {
    scd_encoding encoding; /* of embed */
    struct {
        size_t top_k;
        double threshold;
        uint64_t *order; /* (n_labels) scratch */
    } annotate;
    struct scd_denoise_call *denoise; /* in the call's arena */
    struct scd_generate_call *generate;
    struct scd_grn_call *grn;
    struct scd_perturb_call *perturb; /* handle_perturbations.c */
} scd_infer_fields;

struct scd_infer_cell {
    scd_text id;
    scd_cell cell;
    scd_digest key;
    scd_source source;
    bool bad; /* answered with an error in its place (on_error: skip) */
    const char *detail, *pointer;
    scd_problem_kind kind;
    const scd_plan *plan; /* NULL: one pass */
    size_t n_hidden;      /* tokens that the plan hides */
    void *planned;        /* the task's own, of plan_cell */
    bool idle;            /* nothing is computed: it has no result */
    size_t width;
    float *result; /* (width) */
};

struct scd_infer_call {
    scd_job job; /* first: prep-0 gets this */
    const scd_infer_task *task;
    scd_daemon *d;
    const scd_device_info *device; /* what computed when it came: its keys name it */
    scd_exchange *x;
    uint64_t id; /* of the exchange; names the batcher's ticket */
    bool large;  /* much work: prepared and printed by prep-0 */
    bool as_npy;
    bool want_memo;
    scd_digest memo_key;

    scd_arena input; /* the decoded request, until it is prepared */
    scd_arena arena; /* the rest */
    scd_request request;
    bool decoded;             /* request must be released */
    scd_infer_call *beside;   /* of the same request's cells; in this call's arena; or NULL */
    struct scd_oip_call *oip; /* of a request of /v2, in the arena; or NULL */
    size_t copies;            /* cells that each cell of the body became; 0 counts as 1 */
    bool is_lone;             /* the only cell is the body's "genes" and "values" */
    int64_t deadline_ns;      /* from the arrival of the headers; SCD_NEVER: none was asked for */
    scd_infer_fields fields;
    scd_work work;
    const scd_head_info *head; /* that the answer is from; NULL: none */
    size_t n_items;            /* of the answer */
    size_t width;              /* floats of one result of one pass */
    const scd_served_model *model;
    scd_infer_cell *cells; /* (request.n_cells) */
    float *results;        /* of all cells, one after the other */
    scd_order *orders;     /* (n_orders) the cells that the cache did not have */
    size_t n_orders, n_hits;
    size_t course_bytes; /* that the orders' courses hold */
    size_t n_warnings;
    scd_warning warnings[SCD_MAX_WARNINGS];

    scd_problem problem; /* kind NONE: all is well */
    scd_outcome outcome;
    double cache_s;
};

/* A whole request of a task: every handle_*.c ends in this. */
void scd_infer(const scd_infer_task *task, scd_daemon *d, scd_exchange *x);

/* A call of the same request's cells for another work, to be filled in: its head, its work and its
 * width. NULL: memory is out. */
scd_infer_call *scd_infer_add_beside(scd_infer_call *call, const scd_infer_task *task);

/* The fields of POST /v1/annotations; a scd_infer_task.read_fields. */
bool scd_annotations_read_fields(scd_infer_call *call, const char **unknown);

/* A warning of the answer, for programs by `code`; what does not fit is left out. */
void scd_infer_warn(scd_infer_call *call, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* False, and the problem is that memory is out. */
bool scd_infer_out_of_memory(scd_infer_call *call);
/* Where value `index` of cell c stands in the body, as a JSON pointer; SIZE_MAX: the cell itself.
 */
void scd_infer_point_at(const scd_infer_call *call, size_t c, size_t index, char out[128]);
/* A cell that cannot be used: an error in its place, or a problem of the whole request. */
void scd_infer_blame(scd_infer_call *call, size_t c, scd_problem_kind kind, const char *pointer,
                     const char *detail);
/* A cell that cannot be used, in this call or the one beside it; NULL: it can. */
const scd_infer_cell *scd_infer_bad_cell(const scd_infer_call *call, size_t c);
/* A warning where cells were left out, for answers without an item of theirs that could say so. */
void scd_infer_warn_skipped(scd_infer_call *call);
/* Of a cell that is being planned: all its tokens, though the model sees MAX_GENE_LEN of them,
 * until it is planned. False: memory is out. */
bool scd_infer_whole_cell(const scd_infer_call *call, size_t c, const scd_measured *measured,
                          scd_cell *out);

/* Decode the body, as far as what is asked for. False: call->problem is set. */
bool scd_infer_decode(scd_infer_call *call);

/* Resolve, serialize, look up; lets go of the body. False: call->problem is set. */
bool scd_infer_prepare(scd_infer_call *call);
/* Its steps: cells of the request's, each fit for the model or blamed; then the results that the
 * cache has, the others as orders. Then both of the call beside, whose orders join the call's. */
bool scd_infer_serialize(scd_infer_call *call);
bool scd_infer_look_up(scd_infer_call *call);
bool scd_infer_prepare_beside(scd_infer_call *call);

/* The orders' courses that nobody took charge of go. */
void scd_infer_drop_orders(scd_infer_call *call);

/* The decoded request goes, if there is one. */
void scd_infer_drop_input(scd_infer_call *call);
/* All that a call beside another holds; it lies in the other's memory. */
void scd_infer_drop_beside(scd_infer_call *beside);

/* About what the answer will have. */
size_t scd_infer_answer_bytes(const scd_infer_call *call);

/* What an item says of all cells that could be used: sums, and the least of their sources. */
scd_answer_item scd_infer_sum(const scd_infer_call *call);

/* The header of an answer with binary tensors. */
void scd_infer_set_json_length(scd_exchange *x, const scd_memo_info *info);

/* Answer the exchange: the list, the matrix, or the problem. */
void scd_infer_answer(scd_infer_call *call);

#endif

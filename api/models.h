/* models.h - which of the served models, and which of its heads, a request asks for.
 *
 * Threads: any. */
#ifndef SCD_API_MODELS_H
#define SCD_API_MODELS_H

#include "api/problem.h"
#include "api/task.h"
#include "api/text.h"
#include "engine/engine.h"

/* The model called `name` (n == 0: the default, the first). NULL: *problem is NOT_FOUND and names
 * those there are. */
const scd_served_model *scd_models_choose(const scd_engine *engine, scd_text name, size_t *index,
                                          scd_problem *problem);

/* The model's head called `name` for this task (n == 0: the only one there is). NULL: *problem is
 * NOT_FOUND and names those there are, or INVALID where there is none, or several to choose from.
 */
const scd_head_info *scd_models_choose_head(const scd_served_model *model, const char *task,
                                            scd_text name, scd_problem *problem);

/* Both for a task of files: the model called `model` ("": the default), and the head where the task
 * needs one. Fills *who; else *problem is as above. */
void scd_models_choose_for(const scd_task_kind *kind, const scd_job_query *query, const char *model,
                           scd_task_model *who, scd_problem *problem);

#endif

/* models.h - which of the served models a request asks for.
 *
 * Threads: any. */
#ifndef SCD_SERVER_MODELS_H
#define SCD_SERVER_MODELS_H

#include "api/problem.h"
#include "api/text.h"
#include "engine/engine.h"

/* The model called `name` (n == 0: the default, the first). NULL: *problem is NOT_FOUND and names
 * those there are. */
const scd_served_model *scd_models_choose(const scd_engine *engine, scd_text name, size_t *index,
                                          scd_problem *problem);

#endif

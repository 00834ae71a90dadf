/* embed_fields.c - see embed_fields.h. */
#include "api/embed_fields.h"

#include <cjson/cJSON.h>
#include <string.h>

scd_problem_kind scd_embed_fields_decode(const scd_request *request, scd_embed_fields *out,
                                         scd_problem *problem)
{
    *out = (scd_embed_fields){.encoding = SCD_ENCODING_FLOAT};
    for (const cJSON *member = request->task->child; member; member = member->next) {
        if (strcmp(member->string, "encoding")) {
            if (!out->unknown)
                out->unknown = member->string;
            continue;
        }
        const char *text = cJSON_GetStringValue(member);
        if (!text || !scd_encoding_parse((scd_text){text, strlen(text)}, &out->encoding)) {
            scd_problem_set(problem, SCD_PROBLEM_INVALID,
                            "encoding must be \"float\" or \"base64\"");
            scd_problem_add(problem, "/encoding", "must be \"float\" or \"base64\"");
            return SCD_PROBLEM_INVALID;
        }
    }
    return SCD_PROBLEM_NONE;
}

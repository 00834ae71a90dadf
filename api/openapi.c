/* openapi.c - see openapi.h. The assembler includes the file as it is; built from the top level. */
#include "api/openapi.h"

__asm__(".section .rodata\n"
        ".global scd_openapi_json\n"
        ".global scd_openapi_json_end\n"
        "scd_openapi_json:\n"
        ".incbin \"api/openapi.json\"\n"
        "scd_openapi_json_end:\n"
        ".byte 0\n"
        ".text\n");

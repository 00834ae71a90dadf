/* folder.h - removing a folder with all that is in it.
 *
 * Threads: any. */
#ifndef SCD_TRAIN_FOLDER_H
#define SCD_TRAIN_FOLDER_H

#include "engine/base/error.h"

/* Symbolic links are removed, not followed. Nothing there: SCD_OK. SCD_E_IO names path and reason;
 * what was removed by then stays so. */
scd_code scd_folder_remove(const char *path, scd_error *err);

#endif

{{/* The placement file: what the user wrote, with what follows from the chart's other values put in. As YAML. */}}
{{- define "lorapar.placement.pipeline" -}}
{{- $values := .Values -}}
{{- $placement := deepCopy $values.pipeline.placement -}}
{{- $_ := set $placement "image_pull_policy" ($placement.image_pull_policy | default $values.images.pullPolicy) -}}
{{- if and $values.images.pullSecrets (not $placement.image_pull_secrets) -}}
{{- $names := list -}}
{{- range $values.images.pullSecrets -}}{{- $names = append $names .name -}}{{- end -}}
{{- $_ := set $placement "image_pull_secrets" $names -}}
{{- end -}}
{{- $secret := include "lorapar.objectStoreSecret" . -}}
{{- if and $secret (not $placement.credentials_secret) -}}
{{- $_ := set $placement "credentials_secret" $secret -}}
{{- end -}}
{{- $groups := $placement.groups | default dict -}}
{{- /* A group of its own hides `others` from a stage, so what is put in starts from it. */ -}}
{{- $others := $groups.others | default dict -}}
{{- $queued := ternary (list "vote" "score" "sft" "rl" "evaluate") list $values.pipeline.kueue.enabled -}}
{{- $reading := ternary (list "plan" "vote" "init" "score" "sft" "rl" "publish" "evaluate") list (ne "" $values.baseModels.existingClaim) -}}
{{- range $stage := concat $queued $reading | uniq -}}
{{- $group := get $groups $stage | default $others | deepCopy -}}
{{- if and (has $stage $queued) (not $group.queue) -}}
{{- $_ := set $group "queue" $values.pipeline.kueue.localQueue -}}
{{- end -}}
{{- if and (has $stage $reading) (not $group.models) -}}
{{- $_ := set $group "models" (dict "claim" $values.baseModels.existingClaim) -}}
{{- end -}}
{{- $_ := set $groups $stage $group -}}
{{- end -}}
{{- if $groups -}}
{{- $_ := set $placement "groups" $groups -}}
{{- end -}}
{{- toYaml $placement -}}
{{- end }}

{{/* What upload_pipeline.py keeps in step, as JSON. */}}
{{- define "lorapar.recurring" -}}
{{- $parameters := dict "store" .Values.objectStore.address -}}
{{- with .Values.objectStore.registry -}}
{{- $_ := set $parameters "registry" . -}}
{{- end -}}
{{- dict "owner" (printf "helm release %s/%s" .Release.Namespace .Release.Name) "service_account" (include "lorapar.runnerServiceAccount" .) "parameters" $parameters "runs" .Values.pipeline.recurring | toPrettyJson -}}
{{- end }}

{{/* Sums over a workgroup. The entry point takes "place" and begins with "enter". */}}

{{define "place"}}@builtin(local_invocation_index) local: u32
{{- if .Subgroups}}, @builtin(subgroup_invocation_id) in_team: u32, @builtin(subgroup_id) team: u32, @builtin(num_subgroups) teams: u32{{end}}
{{- end}}

{{define "enter"}}
{{- if .Subgroups}}at = vec3<u32>(in_team, team, teams);{{else}}at = local;{{end}}
{{- end}}

{{define "total" -}}
var<workgroup> sums: array<vec2<f32>, {{.WG}}>;
{{- if .Subgroups}}
var<private> at: vec3<u32>; // in the subgroup, its number, how many there are

// The sum of v over the workgroup: each subgroup's without shared memory, then theirs.
fn total(v: vec2<f32>) -> vec2<f32> {
  let mine = subgroupAdd(v);
  workgroupBarrier();
  if (at.x == 0u) {
    sums[at.y] = mine;
  }
  workgroupBarrier();
  var sum = vec2<f32>();
  for (var i = 0u; i < at.z; i++) {
    sum += sums[i];
  }
  return sum;
}
{{- else}}
var<private> at: u32;

// The sum of v over the workgroup, in a tree.
fn total(v: vec2<f32>) -> vec2<f32> {
  workgroupBarrier();
  sums[at] = v;
  for (var n = {{div .WG 2}}u; n > 0u; n /= 2u) {
    workgroupBarrier();
    if (at < n) {
      sums[at] += sums[at + n];
    }
  }
  workgroupBarrier();
  return sums[0];
}
{{- end}}
{{- end}}
